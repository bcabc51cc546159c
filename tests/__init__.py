"""The tests. A shell that runs them in the background has Ctrl-C ignored, which their commands would inherit."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
