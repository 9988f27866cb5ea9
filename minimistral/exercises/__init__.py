"""What the learner writes: tasks, checks, hints, solutions. One module a chapter, named after the component it builds."""
