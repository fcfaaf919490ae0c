"""The demo: birds that differ in one small part, a plain network and GGAM, and a page that compares them."""



