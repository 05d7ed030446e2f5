"""The stages of a run: preparing, rehearsal, plan, fitting, outcome."""
