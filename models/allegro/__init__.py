"""allegro"""
