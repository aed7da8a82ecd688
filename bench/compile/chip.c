// Mesa's stub of NVIDIA's kernel driver knows chips up to Ampere. Preloaded before it, this answers with the chip and the classes of
// engines of $COMPILE_CHIP (hex) where the stub names its own.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

static int32_t engine_class(unsigned chip, int32_t known) {
  const int blackwell = chip >= 0x1b0;
  if (chip < 0x190) return known;
  switch (known & 0xff) {
    case 0xb5: return blackwell ? 0xcab5 : 0xc7b5; // copies
    case 0x97: return blackwell ? 0xce97 : 0xc997; // graphics
    case 0xc0: return blackwell ? 0xcec0 : 0xc9c0; // compute
    default: return known;
  }
}

int ioctl(int file, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  uint8_t *data = va_arg(arguments, uint8_t *);
  va_end(arguments);
  const int result = ((int (*)(int, unsigned long, void *))dlsym(RTLD_NEXT, "ioctl"))(file, request, data);
  const char *name = getenv("COMPILE_CHIP");
  if (result || !name || _IOC_TYPE(request) != 'd') return result;
  const uint16_t chip = (uint16_t)strtoul(name, NULL, 16);
  if (_IOC_NR(request) == 0x40) { // a parameter: number, value
    uint64_t *pair = (uint64_t *)data;
    if (pair[0] == 11) pair[1] = chip;
  } else if (_IOC_NR(request) == 0x47 && data[1] == 4 && data[25] == 0) { // a method of the device: its description
    memcpy(data + 34, &chip, sizeof chip);
  } else if (_IOC_NR(request) == 0x47 && data[1] == 1) { // the list of classes: pairs of class and versions
    int32_t *classes = (int32_t *)(data + 32);
    for (int i = 0; i < data[25] && i < 8; i++) classes[2 * i] = engine_class(chip, classes[2 * i]);
  }
  return result;
}
