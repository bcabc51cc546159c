"""Models that plain nnU-Net can use: written as a folder or a zip file, with a model card."""
