"""Is Mix'n'Match the right way to mix?"""
