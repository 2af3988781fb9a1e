"""What `predict` writes: pictures, videos, records and the report, each from a `Result`."""
