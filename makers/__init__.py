"""makers"""
