"""What stands on the WebUI's page."""
