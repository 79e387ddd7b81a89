"""Parameters as Flax NNX modules, with initialisers and logical axes.  No MaxText here."""
