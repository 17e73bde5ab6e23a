"""Image and text encoders shared by the methods."""
