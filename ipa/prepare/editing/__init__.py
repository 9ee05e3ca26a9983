"""Start pictures: image to image, inpainting, outpainting."""
