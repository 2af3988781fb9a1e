"""The authors' released Caffe model."""
