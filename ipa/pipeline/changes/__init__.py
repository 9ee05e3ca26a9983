"""What changes what is loaded beside a model, by topic: each verb is a method of a pipeline."""
