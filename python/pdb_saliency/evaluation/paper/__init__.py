"""The paper's tables and our numbers beside them."""
