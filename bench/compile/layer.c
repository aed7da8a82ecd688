// A Vulkan layer for drivers that have a compiler but no GPU: Mesa's RADV told to be some chip, and NVK on a stub of the kernel driver.
// Commands, submissions and waits are swallowed; memory types that such a driver lacks are made up; pipelines go down to it. One line of
// JSON a compute pipeline goes to the file $COMPILE_OUT: what VK_KHR_pipeline_executable_properties tells, and what the SPIR-V declares.
// One instance and one device at a time, as the program that it serves has.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

#define EXPORT __attribute__((visibility("default")))

static PFN_vkGetInstanceProcAddr next_instance;
static PFN_vkGetDeviceProcAddr next_device;
static VkInstance the_instance;
static VkDevice the_device;
static PFN_vkGetPhysicalDeviceMemoryProperties next_memory;
static PFN_vkGetPhysicalDeviceMemoryProperties2 next_memory2;

#define NEXT(name) ((PFN_##name)next_device(the_device, #name))

// ---- what is swallowed

static VkResult VKAPI_CALL succeed(void) { return VK_SUCCESS; }
static VkResult VKAPI_CALL event_is_set(void) { return VK_EVENT_SET; }
static VkResult VKAPI_CALL unsupported(void) { return VK_ERROR_OUT_OF_HOST_MEMORY; }

// Pools, fences, semaphores, events: an allocated number, which is a timeline's value.
static VkResult VKAPI_CALL make(VkDevice device, const VkBaseInStructure *info, const void *allocator, uint64_t **out) {
  (void)device, (void)allocator;
  *out = calloc(1, sizeof **out);
  for (const VkBaseInStructure *s = info->pNext; s; s = s->pNext)
    if (s->sType == VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO) **out = ((const VkSemaphoreTypeCreateInfo *)s)->initialValue;
  return VK_SUCCESS;
}
static void VKAPI_CALL unmake(VkDevice device, uint64_t *object, const void *allocator) {
  (void)device, (void)allocator;
  free(object);
}
static void advance(VkSemaphore semaphore, uint64_t value) {
  uint64_t *now = (uint64_t *)semaphore;
  if (now && *now < value) *now = value;
}
static VkResult VKAPI_CALL submit(VkQueue queue, uint32_t n, const VkSubmitInfo *infos, VkFence fence) {
  (void)queue, (void)fence;
  for (uint32_t i = 0; i < n; i++)
    for (const VkBaseInStructure *s = infos[i].pNext; s; s = s->pNext)
      if (s->sType == VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO) {
        const VkTimelineSemaphoreSubmitInfo *t = (const void *)s;
        for (uint32_t k = 0; k < t->signalSemaphoreValueCount; k++) advance(infos[i].pSignalSemaphores[k], t->pSignalSemaphoreValues[k]);
      }
  return VK_SUCCESS;
}
static VkResult VKAPI_CALL submit2(VkQueue queue, uint32_t n, const VkSubmitInfo2 *infos, VkFence fence) {
  (void)queue, (void)fence;
  for (uint32_t i = 0; i < n; i++)
    for (uint32_t k = 0; k < infos[i].signalSemaphoreInfoCount; k++)
      advance(infos[i].pSignalSemaphoreInfos[k].semaphore, infos[i].pSignalSemaphoreInfos[k].value);
  return VK_SUCCESS;
}
static VkResult VKAPI_CALL signal(VkDevice device, const VkSemaphoreSignalInfo *info) {
  (void)device;
  advance(info->semaphore, info->value);
  return VK_SUCCESS;
}
static VkResult VKAPI_CALL counter(VkDevice device, VkSemaphore semaphore, uint64_t *value) {
  (void)device;
  *value = *(uint64_t *)semaphore;
  return VK_SUCCESS;
}
static VkResult VKAPI_CALL make_commands(VkDevice device, const VkCommandBufferAllocateInfo *info, VkCommandBuffer *out) {
  for (uint32_t i = 0; i < info->commandBufferCount; i++) {
    void **commands = calloc(8, sizeof *commands);
    *commands = *(void **)device; // the loader finds its functions by the first word
    out[i] = (VkCommandBuffer)commands;
  }
  return VK_SUCCESS;
}
static void VKAPI_CALL unmake_commands(VkDevice device, VkCommandPool pool, uint32_t n, const VkCommandBuffer *commands) {
  (void)device, (void)pool;
  for (uint32_t i = 0; i < n; i++) free(commands[i]);
}
static VkResult VKAPI_CALL no_results(VkDevice d, VkQueryPool p, uint32_t first, uint32_t n, size_t size, void *data) {
  (void)d, (void)p, (void)first, (void)n;
  memset(data, 0, size);
  return VK_SUCCESS;
}
static VkResult VKAPI_CALL no_cache(VkDevice d, VkPipelineCache c, size_t *size) {
  (void)d, (void)c;
  *size = 0;
  return VK_SUCCESS;
}

// ---- memory

static void add_types(VkPhysicalDeviceMemoryProperties *m) {
  if (m->memoryTypeCount) return;
  const VkMemoryPropertyFlags host = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  m->memoryHeapCount = 1;
  m->memoryHeaps[0] = (VkMemoryHeap){16ull << 30, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT};
  m->memoryTypeCount = 2;
  m->memoryTypes[0] = (VkMemoryType){VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, 0};
  m->memoryTypes[1] = (VkMemoryType){host | VK_MEMORY_PROPERTY_HOST_CACHED_BIT, 0};
}
static void VKAPI_CALL memory(VkPhysicalDevice physical, VkPhysicalDeviceMemoryProperties *m) {
  next_memory(physical, m);
  add_types(m);
}
static void VKAPI_CALL memory2(VkPhysicalDevice physical, VkPhysicalDeviceMemoryProperties2 *m) {
  next_memory2(physical, m);
  add_types(&m->memoryProperties);
}
static void any_type(VkMemoryRequirements *r) {
  if (!r->memoryTypeBits) r->memoryTypeBits = 3;
}
static void VKAPI_CALL buffer_needs(VkDevice device, VkBuffer buffer, VkMemoryRequirements *r) {
  NEXT(vkGetBufferMemoryRequirements)(device, buffer, r);
  any_type(r);
}
static void VKAPI_CALL buffer_needs2(VkDevice device, const VkBufferMemoryRequirementsInfo2 *info, VkMemoryRequirements2 *r) {
  NEXT(vkGetBufferMemoryRequirements2)(device, info, r);
  any_type(&r->memoryRequirements);
}
static void VKAPI_CALL planned_needs(VkDevice device, const VkDeviceBufferMemoryRequirements *info, VkMemoryRequirements2 *r) {
  NEXT(vkGetDeviceBufferMemoryRequirements)(device, info, r);
  any_type(&r->memoryRequirements);
}

// ---- pipelines

// Invocations of a workgroup and bytes of workgroup memory, by the declarations of a module.
static void declared(const uint32_t *w, size_t words, unsigned *invocations, unsigned *shared) {
  const uint32_t bound = w[3];
  uint32_t *size = calloc(bound, sizeof *size), *value = calloc(bound, sizeof *value);
  *invocations = *shared = 0;
  for (size_t i = 5; i < words && w[i] >> 16; i += w[i] >> 16) {
    const uint32_t *a = w + i + 1, n = w[i] >> 16;
    switch (w[i] & 0xffff) {
      case 16: if (a[1] == 17) *invocations = a[2] * a[3] * a[4]; break; // OpExecutionMode LocalSize
      case 21: case 22: size[a[0]] = a[1] / 8; break;                    // OpTypeInt, OpTypeFloat
      case 23: case 24: size[a[0]] = size[a[1]] * a[2]; break;           // OpTypeVector, OpTypeMatrix
      case 28: size[a[0]] = size[a[1]] * value[a[2]]; break;             // OpTypeArray
      case 30: for (uint32_t k = 1; k < n - 1; k++) size[a[0]] += size[a[k]]; break; // OpTypeStruct
      case 32: size[a[0]] = size[a[2]]; break;                           // OpTypePointer
      case 43: value[a[1]] = a[2]; break;                                // OpConstant
      case 59: if (a[2] == 4) *shared += size[a[0]]; break;              // OpVariable, Workgroup
      case 54: i = words; break;                                         // OpFunction
    }
    if (i >= words) break;
  }
  free(size), free(value);
}

typedef struct Module {
  struct Module *next;
  VkShaderModule handle;
  unsigned invocations, shared;
} Module;
static Module *modules;

static const Module *remember(VkShaderModule handle, const VkShaderModuleCreateInfo *info) {
  Module *m = calloc(1, sizeof *m);
  m->handle = handle;
  declared(info->pCode, info->codeSize / 4, &m->invocations, &m->shared);
  m->next = modules;
  return modules = m;
}
static VkResult VKAPI_CALL make_module(VkDevice device, const VkShaderModuleCreateInfo *info, const VkAllocationCallbacks *a, VkShaderModule *out) {
  VkResult result = NEXT(vkCreateShaderModule)(device, info, a, out);
  if (result == VK_SUCCESS) remember(*out, info);
  return result;
}
static const Module *module_of(const VkPipelineShaderStageCreateInfo *stage) {
  for (const VkBaseInStructure *s = stage->pNext; s; s = s->pNext)
    if (s->sType == VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO) return remember(VK_NULL_HANDLE, (const void *)s);
  const Module *m = modules;
  while (m && m->handle != stage->module) m = m->next;
  return m;
}

static void text(FILE *f, const char *s) {
  fputc('"', f);
  for (; *s; s++)
    if (*s == '"' || *s == '\\') fprintf(f, "\\%c", *s);
    else if ((unsigned char)*s < 32) fprintf(f, "\\u%04x", *s);
    else fputc(*s, f);
  fputc('"', f);
}

static void statistics(FILE *f, const VkPipelineExecutableInfoKHR *of) {
  uint32_t n = 0;
  NEXT(vkGetPipelineExecutableStatisticsKHR)(the_device, of, &n, NULL);
  VkPipelineExecutableStatisticKHR *s = calloc(n + 1, sizeof *s);
  for (uint32_t i = 0; i < n; i++) s[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
  NEXT(vkGetPipelineExecutableStatisticsKHR)(the_device, of, &n, s);
  fputs(",\"statistics\":{", f);
  for (uint32_t i = 0; i < n; i++) {
    if (i) fputc(',', f);
    text(f, s[i].name);
    fprintf(f, ":%.17g", s[i].format == VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_FLOAT64_KHR ? s[i].value.f64 : s[i].format == VK_PIPELINE_EXECUTABLE_STATISTIC_FORMAT_BOOL32_KHR ? (double)s[i].value.b32 : (double)s[i].value.u64);
  }
  fputc('}', f);
  free(s);
}

static void machine_code(FILE *f, const VkPipelineExecutableInfoKHR *of) {
  uint32_t n = 0;
  NEXT(vkGetPipelineExecutableInternalRepresentationsKHR)(the_device, of, &n, NULL);
  VkPipelineExecutableInternalRepresentationKHR *r = calloc(n + 1, sizeof *r);
  for (uint32_t i = 0; i < n; i++) r[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INTERNAL_REPRESENTATION_KHR;
  NEXT(vkGetPipelineExecutableInternalRepresentationsKHR)(the_device, of, &n, r);
  for (uint32_t i = 0; i < n; i++) r[i].pData = strstr(r[i].name, "ssembly") ? calloc(1, r[i].dataSize + 1) : NULL;
  NEXT(vkGetPipelineExecutableInternalRepresentationsKHR)(the_device, of, &n, r);
  for (uint32_t i = 0; i < n; i++)
    if (r[i].pData) {
      fputs(",\"code\":", f);
      text(f, r[i].pData);
      break; // one is enough
    }
  for (uint32_t i = 0; i < n; i++) free(r[i].pData);
  free(r);
}

enum { CAPTURE = VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR | VK_PIPELINE_CREATE_CAPTURE_INTERNAL_REPRESENTATIONS_BIT_KHR };

static VkResult make_pipeline(VkDevice device, VkPipelineCache cache, VkComputePipelineCreateInfo info, const VkAllocationCallbacks *a, VkPipeline *out) {
  info.flags |= CAPTURE;
  for (const VkBaseInStructure *s = info.pNext; s; s = s->pNext) // VkPipelineCreateFlags2CreateInfo, which older headers lack
    if ((int)s->sType == 1000470005) *(uint64_t *)((char *)s + 16) |= CAPTURE;
  const char *label = getenv("COMPILE_LABEL");
  FILE *f = fopen(getenv("COMPILE_OUT"), "a");
  fputs("{\"label\":", f);
  text(f, label ? label : "");
  fflush(f); // a line without an end names the pipeline that took the process with it
  const VkResult result = NEXT(vkCreateComputePipelines)(device, cache, 1, &info, a, out);
  const Module *m = module_of(&info.stage);
  fprintf(f, ",\"result\":%d,\"invocations\":%u,\"shared\":%u", result, m ? m->invocations : 0, m ? m->shared : 0);
  if (result == VK_SUCCESS) {
    const VkPipelineInfoKHR which = {.sType = VK_STRUCTURE_TYPE_PIPELINE_INFO_KHR, .pipeline = *out};
    VkPipelineExecutablePropertiesKHR p = {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_PROPERTIES_KHR};
    uint32_t one = 1;
    NEXT(vkGetPipelineExecutablePropertiesKHR)(device, &which, &one, &p);
    fprintf(f, ",\"subgroup\":%u", p.subgroupSize);
    const VkPipelineExecutableInfoKHR first = {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, .pipeline = *out};
    statistics(f, &first);
    machine_code(f, &first);
  }
  fputs("}\n", f);
  fclose(f);
  return result;
}
static VkResult VKAPI_CALL make_pipelines(VkDevice device, VkPipelineCache cache, uint32_t n, const VkComputePipelineCreateInfo *infos, const VkAllocationCallbacks *a, VkPipeline *out) {
  VkResult worst = VK_SUCCESS;
  for (uint32_t i = 0; i < n; i++) {
    const VkResult result = make_pipeline(device, cache, infos[i], a, out + i);
    if (result != VK_SUCCESS) worst = result;
  }
  return worst;
}

// ---- the layer's own place in the chain

static VkResult VKAPI_CALL make_instance(const VkInstanceCreateInfo *info, const VkAllocationCallbacks *a, VkInstance *out) {
  VkLayerInstanceCreateInfo *link = (void *)info->pNext;
  while (link && (link->sType != VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO || link->function != VK_LAYER_LINK_INFO)) link = (void *)link->pNext;
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  PFN_vkGetInstanceProcAddr next = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  const VkResult result = ((PFN_vkCreateInstance)next(NULL, "vkCreateInstance"))(info, a, out);
  if (result != VK_SUCCESS) return result;
  next_instance = next;
  the_instance = *out;
  next_memory = (void *)next(*out, "vkGetPhysicalDeviceMemoryProperties");
  next_memory2 = (void *)next(*out, "vkGetPhysicalDeviceMemoryProperties2");
  return result;
}
static VkResult VKAPI_CALL make_device(VkPhysicalDevice physical, const VkDeviceCreateInfo *info, const VkAllocationCallbacks *a, VkDevice *out) {
  VkLayerDeviceCreateInfo *link = (void *)info->pNext;
  while (link && (link->sType != VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO || link->function != VK_LAYER_LINK_INFO)) link = (void *)link->pNext;
  if (!link) return VK_ERROR_INITIALIZATION_FAILED;
  PFN_vkGetInstanceProcAddr instance = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
  PFN_vkGetDeviceProcAddr device = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
  link->u.pLayerInfo = link->u.pLayerInfo->pNext;
  // The extension is asked for besides what the program wants.
  const char **names = calloc(info->enabledExtensionCount + 1, sizeof *names);
  memcpy(names, info->ppEnabledExtensionNames, info->enabledExtensionCount * sizeof *names);
  names[info->enabledExtensionCount] = VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME;
  VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR feature = {
      .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR, .pNext = (void *)info->pNext, .pipelineExecutableInfo = VK_TRUE};
  VkDeviceCreateInfo mine = *info;
  mine.pNext = &feature;
  mine.enabledExtensionCount++;
  mine.ppEnabledExtensionNames = names;
  const VkResult result = ((PFN_vkCreateDevice)instance(the_instance, "vkCreateDevice"))(physical, &mine, a, out);
  free(names);
  if (result != VK_SUCCESS) return result;
  next_device = device;
  the_device = *out;
  return result;
}

EXPORT PFN_vkVoidFunction VKAPI_CALL vkGetInstanceProcAddr(VkInstance instance, const char *name);
EXPORT PFN_vkVoidFunction VKAPI_CALL vkGetDeviceProcAddr(VkDevice device, const char *name);

typedef struct {
  const char *name;
  void *function;
} Entry;
#define SUFFIXED(name, function) {#name, function}, {#name "KHR", function}
static const Entry of_instance[] = {
    {"vkGetInstanceProcAddr", vkGetInstanceProcAddr}, {"vkCreateInstance", make_instance}, {"vkCreateDevice", make_device},
    {"vkGetPhysicalDeviceMemoryProperties", memory}, SUFFIXED(vkGetPhysicalDeviceMemoryProperties2, memory2), {NULL, NULL}};
static const Entry of_device[] = {
    {"vkGetDeviceProcAddr", vkGetDeviceProcAddr}, {"vkCreateShaderModule", make_module}, {"vkCreateComputePipelines", make_pipelines},
    {"vkGetBufferMemoryRequirements", buffer_needs}, SUFFIXED(vkGetBufferMemoryRequirements2, buffer_needs2),
    SUFFIXED(vkGetDeviceBufferMemoryRequirements, planned_needs), {"vkGetPipelineCacheData", no_cache},
    {"vkCreateCommandPool", make}, {"vkDestroyCommandPool", unmake}, {"vkResetCommandPool", succeed}, SUFFIXED(vkTrimCommandPool, succeed),
    {"vkAllocateCommandBuffers", make_commands}, {"vkFreeCommandBuffers", unmake_commands}, {"vkBeginCommandBuffer", succeed},
    {"vkEndCommandBuffer", succeed}, {"vkResetCommandBuffer", succeed}, {"vkQueueSubmit", submit}, SUFFIXED(vkQueueSubmit2, submit2),
    {"vkQueueWaitIdle", succeed}, {"vkDeviceWaitIdle", succeed}, {"vkCreateFence", make}, {"vkDestroyFence", unmake}, {"vkResetFences", succeed},
    {"vkGetFenceStatus", succeed}, {"vkWaitForFences", succeed}, {"vkCreateSemaphore", make}, {"vkDestroySemaphore", unmake},
    SUFFIXED(vkGetSemaphoreCounterValue, counter), SUFFIXED(vkWaitSemaphores, succeed), SUFFIXED(vkSignalSemaphore, signal),
    {"vkGetSemaphoreFdKHR", unsupported}, {"vkImportSemaphoreFdKHR", unsupported}, {"vkGetFenceFdKHR", unsupported}, {"vkImportFenceFdKHR", unsupported},
    {"vkCreateEvent", make}, {"vkDestroyEvent", unmake}, {"vkGetEventStatus", event_is_set}, {"vkSetEvent", succeed}, {"vkResetEvent", succeed},
    {"vkGetQueryPoolResults", no_results}, {"vkResetQueryPool", succeed}, {"vkResetQueryPoolEXT", succeed},
    {"vkSetDebugUtilsObjectNameEXT", succeed}, {"vkSetDebugUtilsObjectTagEXT", succeed}, {NULL, NULL}};

static PFN_vkVoidFunction find(const Entry *e, const char *name) {
  while (e->name && strcmp(e->name, name)) e++;
  return (PFN_vkVoidFunction)e->function;
}
static PFN_vkVoidFunction mine(const char *name, PFN_vkVoidFunction next) {
  PFN_vkVoidFunction own = strncmp(name, "vkCmd", 5) ? find(of_device, name) : (PFN_vkVoidFunction)succeed;
  return own && next ? own : next; // what the driver lacks stays absent
}
PFN_vkVoidFunction VKAPI_CALL vkGetDeviceProcAddr(VkDevice device, const char *name) { return mine(name, next_device(device, name)); }
PFN_vkVoidFunction VKAPI_CALL vkGetInstanceProcAddr(VkInstance instance, const char *name) {
  PFN_vkVoidFunction own = find(of_instance, name);
  return own || !instance ? own : mine(name, next_instance(instance, name));
}
EXPORT VkResult VKAPI_CALL vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *v) {
  v->loaderLayerInterfaceVersion = 2;
  v->pfnGetInstanceProcAddr = vkGetInstanceProcAddr;
  v->pfnGetDeviceProcAddr = vkGetDeviceProcAddr;
  v->pfnGetPhysicalDeviceProcAddr = NULL;
  return VK_SUCCESS;
}
