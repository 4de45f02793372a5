"""What learns from images: a recipe's training, and pretrained encoders made elastic."""
