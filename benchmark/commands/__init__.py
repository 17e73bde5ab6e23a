"""The commands: arguments in, calls, output. One file a command; nothing imports them."""
