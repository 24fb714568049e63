"""Every contract that crosses a stage boundary, as pydantic models, and nothing else. Imports no torch."""
