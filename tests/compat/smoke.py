print("no smoke yet")
