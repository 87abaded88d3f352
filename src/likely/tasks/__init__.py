"""The questions: one file each. Tasks ask for verbs, never for families."""
