"""Getting data sets: downloads where hosts and licences allow them, and layouts rewritten as one."""
