"""The landing page: what serves, its mode, alerts, accuracy, versions, reports, next runs, in one view."""
