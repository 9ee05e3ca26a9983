"""The routes by dialect: read, translate, submit, answer."""
