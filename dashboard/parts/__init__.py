"""What single pages are made of, a folder a page; what several pages share is in `components`."""
