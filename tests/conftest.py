"""What all tests share."""

from lib.core.allocation import keep_freed_memory

# As in a training process: without it the tests that train take half as long again.
keep_freed_memory()
