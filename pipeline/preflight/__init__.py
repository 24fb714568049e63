"""What is known to be wrong before any work starts, and how long the work will take. A process of its own."""
