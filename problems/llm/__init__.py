"""Language models as problems: prompts, data, models, and classification by forward passes."""
