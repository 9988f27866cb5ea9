"""The tiny model of the course: the stories it learns from, and what it needs to learn them."""
