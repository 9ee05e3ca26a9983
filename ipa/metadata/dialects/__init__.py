"""What other programs write into their pictures, in the words of our calls."""
