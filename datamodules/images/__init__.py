"""Images: photographs, encoders, stored features."""
