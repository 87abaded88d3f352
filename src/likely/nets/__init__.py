"""Networks: shapes in, shapes out, no probability."""
