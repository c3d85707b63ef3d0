"""The demo: two tenants on one accelerator, what they do, what they try, and what came of it."""
