"""The screen's check before a build, and what the build will cost."""
