"""From the site file to the files of two hosts."""
