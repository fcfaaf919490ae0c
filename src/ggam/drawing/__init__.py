"""Pictures, charts and pages; nothing here knows a model."""
