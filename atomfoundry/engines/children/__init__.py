"""Child processes that answer requests: started, asked, watched and ended alike wherever an engine needs one."""
