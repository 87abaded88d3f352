"""What can be chosen: one torch-free file a family, training, data. The words here become help, forms and docs."""
