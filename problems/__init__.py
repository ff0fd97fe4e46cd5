"""Problems: a model, its data, an objective, held-out metrics, and how a candidate is shown to a person."""
