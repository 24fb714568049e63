"""Every contract that crosses a stage boundary, and the rules by which a stage keeps it. Imports no torch."""
