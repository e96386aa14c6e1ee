"""Here so that tests in any folder below can import the helpers that lie beside this file."""
