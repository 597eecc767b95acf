"""The measurements behind `lobsmith bench`, each beside its baseline in one run."""
