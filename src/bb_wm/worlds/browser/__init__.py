"""User interfaces: pages of MiniWoB++ in a real headless Chromium, with their destructive clicks.

features  what is seen of a page, as numbers; text is hashed
chromium  the browser, by WebDriver
page      the Gymnasium environment
clerks    scripted agents, careful and careless
tasks     the tasks by name, and what is destructive in each
"""
