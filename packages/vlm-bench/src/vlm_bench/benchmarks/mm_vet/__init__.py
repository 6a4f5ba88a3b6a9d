"""MM-Vet: open answers that a judge grades."""
