//! Memory that a device has for this process, if its driver reports it.

use super::Context;
use super::adapter::USED_AT_MOST;
use ash::{ext, vk};
use wgpu::hal::api::Vulkan;

impl Context {
    /// Returns the bytes of the device's own memory that this process may use in total: a share of the driver's budget
    /// (`VK_EXT_memory_budget`), which accounts for other programs, or else of the largest heap. `None` on backends
    /// other than Vulkan.
    #[allow(unsafe_code, reason = "wgpu does not report a device's memory, Vulkan does")]
    pub fn memory_budget(&self) -> Option<u64> {
        // SAFETY: only properties of the device are read.
        let device = unsafe { self.device().as_hal::<Vulkan>() }?;
        let physical = device.raw_physical_device();
        let instance = device.shared_instance();
        let has_budget = instance.instance_api_version() >= vk::API_VERSION_1_1
            && device.enabled_device_extensions().contains(&ext::memory_budget::NAME);
        let mut budget = vk::PhysicalDeviceMemoryBudgetPropertiesEXT::default();
        let heaps = if has_budget {
            let mut properties = vk::PhysicalDeviceMemoryProperties2::default().push_next(&mut budget);
            // SAFETY: the instance and its physical device live as long as `device`, and it has the extension.
            unsafe {
                instance.raw_instance().get_physical_device_memory_properties2(physical, &mut properties);
            }
            properties.memory_properties
        } else {
            // SAFETY: the instance and its physical device live as long as `device`.
            unsafe { instance.raw_instance().get_physical_device_memory_properties(physical) }
        };
        let own = heaps.memory_heaps_as_slice().iter().enumerate();
        let own = own.filter(|(_, heap)| heap.flags.contains(vk::MemoryHeapFlags::DEVICE_LOCAL));
        let bytes = own.map(|(index, heap)| if has_budget { budget.heap_budget[index] } else { heap.size });
        bytes.max().map(|bytes| bytes / 100 * u64::from(USED_AT_MOST))
    }
}
