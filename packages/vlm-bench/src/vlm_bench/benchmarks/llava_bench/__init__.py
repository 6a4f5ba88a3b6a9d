"""LLaVA-Bench (In-the-Wild): open answers, scored relative to a reference by a judge's reviews."""
