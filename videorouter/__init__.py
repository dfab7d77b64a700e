"""An asyncio client for paid AI video through the Infron gateway."""
