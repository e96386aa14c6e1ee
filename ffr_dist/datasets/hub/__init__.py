"""How the Hugging Face Hub lays out datasets of images: parquet files with the images inside, or folders of images."""
