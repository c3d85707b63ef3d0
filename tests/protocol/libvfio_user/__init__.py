"""libvfio-user's scenarios, written anew: what the specification says of each is what we do.

A module is called as theirs is, and a test as theirs is, so a name finds both.
``scenarios.toml`` has the whole list; ``test_scenarios`` sees that it is kept.
"""
