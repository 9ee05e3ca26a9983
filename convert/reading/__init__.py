"""From files and folders to the tensors of a model, a component, an adapter."""
