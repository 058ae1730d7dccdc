"""Answer the questions of the study: one module per question, which `study.ask` calls."""
