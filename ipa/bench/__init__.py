"""How fast a model runs here: stages and whole generations, in processes of their own."""
