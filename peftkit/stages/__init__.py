"""The stages of a run: early checks, preparing, rehearsal, plan, fitting, outcome, recording."""
