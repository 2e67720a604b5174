// Threads that stay: starting them, and giving their memory back, would cost more than a small structure takes.
#pragma once
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace foundry {

class Threads {
  public:
    // Calls work(); so do up to `helpers` other threads at the same time. Throws the first exception of any.
    static void run(int helpers, const std::function<void()>& work) {
        if (helpers <= 0) {
            work();
            return;
        }
        static std::mutex turn;
        static Threads* threads = nullptr;
        static pid_t owner = 0;
        const std::lock_guard<std::mutex> one_at_a_time(turn);
        if (!threads || owner != getpid()) {  // threads do not survive a fork: the child forgets its parent's
            threads = new Threads;
            owner = getpid();
        }
        threads->share(helpers, work);
    }

  private:
    void share(int helpers, const std::function<void()>& work) {
        while (int(members_) < helpers) {
            std::thread(&Threads::serve, this, members_, round_).detach();
            ++members_;
        }
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            work_ = &work;
            wanted_ = busy_ = helpers;
            failure_ = nullptr;
            ++round_;
        }
        begin_.notify_all();
        attempt(work);
        std::unique_lock<std::mutex> lock(mutex_);
        end_.wait(lock, [&] { return busy_ == 0; });
        if (failure_) std::rethrow_exception(failure_);
    }

    void attempt(const std::function<void()>& work) {
        try {
            work();
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!failure_) failure_ = std::current_exception();
        }
    }

    void serve(int number, int64_t seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            begin_.wait(lock, [&] { return round_ != seen; });
            seen = round_;
            if (number >= wanted_) continue;
            const auto* work = work_;
            lock.unlock();
            attempt(*work);
            lock.lock();
            if (--busy_ == 0) end_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable begin_, end_;
    const std::function<void()>* work_ = nullptr;
    std::exception_ptr failure_;
    int members_ = 0, wanted_ = 0, busy_ = 0;
    int64_t round_ = 0;
};

}  // namespace foundry
